"""Log: report a run to files, trackers, the terminal and plots."""
