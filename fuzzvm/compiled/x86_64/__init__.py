"""x86_64 for kernel images."""
