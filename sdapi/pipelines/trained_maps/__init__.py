"""Control maps by trained annotators: what a net has learned to see in a picture, as control nets were trained to be shown it."""
