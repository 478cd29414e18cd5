"""What artifacts hold, read from their bytes without the runtime that loads them."""
