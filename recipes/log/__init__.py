"""Log: what a run reports, to files, trackers, a terminal and plots."""
