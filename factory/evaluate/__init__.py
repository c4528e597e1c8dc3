"""What synthetic images are worth: fidelity, diversity, and the accuracy of classifiers trained with and without them."""
