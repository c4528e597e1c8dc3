"""How real images, labels and text steer a generator."""
