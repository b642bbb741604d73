"""What people look at: montage and report, and the HTML and panels that pages share."""
