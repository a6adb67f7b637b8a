"""Tables of trials: DataFrame in, DataFrame out, and their text, CSV, Markdown and LaTeX forms."""
