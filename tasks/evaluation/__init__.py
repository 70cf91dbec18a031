"""What an evaluation stands on: networks, tables, scores, intervals, the paper's numbers and the record of a run."""
