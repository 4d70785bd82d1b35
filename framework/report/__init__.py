"""Reports: pages that hold all they show, for people; made from what a run leaves."""
