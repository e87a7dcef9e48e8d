"""The web page of `factstream ui`: pages rendered on the server, without outside assets."""
