"""A page on which a person is the cold-start user of an exported model."""
