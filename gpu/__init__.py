"""What only a GPU can show: ``python -m gpu`` checks and measures everything, and reports."""
