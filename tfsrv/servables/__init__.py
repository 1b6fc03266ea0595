"""What a platform is: how its files become a servable."""
