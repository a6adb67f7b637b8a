"""The report: sections, notes, and the HTML page."""
