"""Images: where they come from, how they are split, varied, prepared and handed out in batches."""
