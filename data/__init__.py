"""What is read and written: slides, annotations, composed scenes, taxa and counts."""
