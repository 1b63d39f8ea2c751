"""Maps: linear maps, their algebra, and the calls of torch that are such maps."""
