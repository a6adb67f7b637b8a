"""`lmsweep dashboard`: a local page that shows a sweep while it runs."""
