"""Planning: costs, problems, and the planners that solve them."""
