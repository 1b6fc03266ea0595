"""What the server shows of itself: families of metrics, with their values of now."""
