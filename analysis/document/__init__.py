"""The document: its sections and notes, and the page report.html."""
