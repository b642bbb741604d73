"""The thesis's experiment as a command: methods against accelerations, over slices, as a table and a page."""
