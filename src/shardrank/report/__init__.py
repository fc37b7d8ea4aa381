"""What a job did and what it gave, for people who would rather look than read."""
