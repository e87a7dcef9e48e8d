"""The web page of `factstream ui`: server-rendered pages over the client and the queries, with no outside assets."""
