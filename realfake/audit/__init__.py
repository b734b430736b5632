"""What a corpus gives away besides what is in its pictures, and `equalize`, which takes it out of the files."""
