"""Heroes: recipes (profile), chat rendering (chat) and, with torch, weights and generation (model)."""
