"""What each process of a test runs; a failed assertion ends it, and with it the launch."""
