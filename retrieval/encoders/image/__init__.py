"""Pictures of grains as vectors: grains that look alike, whatever their stain, lie close."""
