"""What the edit command stands on: the record that repeats an edit, and the sheet that shows it."""
