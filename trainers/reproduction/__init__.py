"""The arms of two published studies, trained again and measured on the same cases."""
