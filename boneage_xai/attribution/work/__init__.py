"""The work of attributing a cohort: its claim, its blocks, and the engines that compute them."""
