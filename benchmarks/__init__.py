"""Side by side with the peers: every case checks that results agree before it is timed, and reports ratios of one run."""
