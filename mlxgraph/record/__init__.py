"""User Python -> Graph: proxies, views, interception, lifting, the block."""
