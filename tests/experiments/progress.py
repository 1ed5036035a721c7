"""Progress of a run as its callers hand it in: one that counts, one that is interrupted."""


class Counted:
    """The totals that were announced and the steps that were done."""

    def __init__(self):
        self.totals, self.done = [], []

    def __call__(self, total):
        self.totals.append(total)
        return lambda label, n=1: self.done.append(n)


def interrupted_in(part=""):
    """An interrupt (Ctrl-C) at the first step whose label contains this."""

    def progress(total):
        def tick(label, n=1):
            if part in label:
                raise KeyboardInterrupt

        return tick

    return progress
