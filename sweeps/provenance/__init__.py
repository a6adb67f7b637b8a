"""What a run was made of (manifest.json), and what must be unchanged for a run to resume."""
