"""What training images undergo, on the device."""
