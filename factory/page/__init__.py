"""The report as one page of HTML: what a run made, what was kept of it and whether it helped."""
