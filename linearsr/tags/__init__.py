"""Tags: vocabulary, embedding and taggers."""
