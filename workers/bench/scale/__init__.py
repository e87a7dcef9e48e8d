"""`factstream bench scale`: what binds first at a scale, and what a month of it costs."""
