"""One job of matseg-run, from options to report."""
