"""The five systems; `registry` names them."""
