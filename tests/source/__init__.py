"""Tests of the source worker."""
