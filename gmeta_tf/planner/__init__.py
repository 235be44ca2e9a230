"""What tables take and what a step sends, before anything is built."""
