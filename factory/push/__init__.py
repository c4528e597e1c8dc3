"""`factory push`: a finished run becomes a dataset on the Hub, in one visible commit."""
