"""Progress of a run as its callers hand it in: one that counts, one that is interrupted."""


class Counted:
    """The totals that were announced and the steps that were done."""

    def __init__(self):
        self.totals, self.done = [], []

    def __call__(self, total):
        self.totals.append(total)
        return lambda label, n=1: self.done.append(n)


class Interrupting:
    """Ctrl-C at the tick of this number, counted from 1; at 0 before the first."""

    def __init__(self, at):
        self.left = at

    def __call__(self, total):
        self.check()
        return self.tick

    def tick(self, label, n=1):
        self.left -= 1
        self.check()

    def check(self):
        if not self.left:
            raise KeyboardInterrupt

    def close(self):
        """As the bar of the command line."""
