"""The frozen model: its files, its forward passes, its key/value cache and its calibration."""
