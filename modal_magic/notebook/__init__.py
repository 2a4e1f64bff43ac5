"""What a notebook has of modal_magic: its magics, and what they say and remember between cells."""
