"""Plans, selections and deltas in the formats of other tools.

axolotl         whole modules to unfreeze, as Spectrum's YAML
rank_pattern    LoRA ranks by layer, for peft's LoraConfig
shira           a delta as a SHiRA adapter that plain peft loads
llm_compressor  bit widths by layer, as a recipe of llm-compressor
auto_round      the same, as AutoRound's layer_config
card            what was done, for a model card
"""
