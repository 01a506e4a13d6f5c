"""Networks that lead a drawing, and how many of them go with one forward."""
