"""One block, from inputs to arrays: joins the rooms that record, rewrite and run."""
