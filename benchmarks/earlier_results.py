"""Results from before results recorded how they were made.

They are published with what they state about themselves, and the pages say that they have no hash of the weights. An
entry has no effect any more once its file is made again. Some of these files were Markdown and were converted without
measuring again; marks of a best checkpoint, which had been chosen by the scores beside them, were left out.
"""

EARLIER = {  # the SHA-256 of each file
    "babi_tasks.json": "73f66278e3c405974be7e0cf951e4f2f982772cbe06dd69c4a12f7d78ed3eb1f",
    "creak_study.json": "949e2b8408e6c8d46266735dd4cc99f8ab43bba4cead8d7a43225facb65b8006",
    "decisions.json": "34bfc21388e2d5b2a40abeaee9c955262ede28a18538f17de1b1bc2aa4a73973",
    "decisions_smollm2.json": "93dcc5866c9f031407fb3521e96f492270aa722c936b175b0dcea3cbbb3b7961",
    "efficiency.json": "c27d31f1bc27b9ce51e21d21cd570ff05694435a5b54a4cf31c01d306c0409ca",
    "embedded_pair.json": "3457a9b492463c53b1ea8d3a5e4b142e6ca8583a01c71136086ee3ab4844576d",
    "enhance_creak.json": "6cbdc7685dd2efe0df15ed6268c6149d30458b6584e47aad994657ef519defe0",
    "enhance_stories.json": "0a1734ed302ed889d3b4a5edc91d89f4d17b6092de7c8773a36a607e796efd60",
    "enhance_throughput.json": "3c38b540380e0ffd50773f12dcbef959e851a454454d9c73fef41a896842f4d9",
    "faults.json": "546321f0fa7971750c3567833c70bbc10aa11c3adaa4fd2357761dbf9286e427",
    "finetune_chain.json": "bcb2051085eead8d56ca83f8ac6290d5376ccad26d09d4213a6371e1049670ac",
    "finetune_chain.png": "eec9d2e8d0ac94ea41b24a5027316d06ab6f7b1ee5217444191da55a1b1733ea",
    "finetune_creak.json": "caf8df96d15027b365afcd004ca9d964cec12623607140a4d6573e33f29015db",
    "finetune_matrix.json": "5b776b3d33df9ef90cad78e2e32fb9844b8c61f80f203088da8f7c5ca8ece982",
    "finetune_preferences.json": "b7915b6b3becd50ffaeef4d943ad14373ef52801c6f320c3a3c2c76d05efa91d",
    "finetune_targets.json": "47a32c26568b58b286f62f8431fce47bf4e78e4a492a6259a6374c1416135f76",
    "gpu.json": "74fcca2963b1ab963a8a4727f76d2a3ef51727a91cdd77f1c34469da8b6cd43e",
    "hostile_drafts_embedded.json": "49fcb7df920990d2b3a533d8c32b9c096dfa7753b81d01ad90aa1b110eecb25f",
    "hostile_drafts_smollm2.json": "dd6dd4d25a888f4a67ffa5e743a4c2a3a71c1ad6d85a2c64fe0e407e52fc3dee",
    "http_cost.json": "12df203ada4872766c1d3d594afe11a29a5bff00e7d8aac25aab2bc70ae8e17e",
    "intervals.json": "2f59a91ba736664daa6ef90f739a8e6f23bb91ff4cd7f3e5415812267263147b",
    "invariance.json": "051d5b38701815c0b35bfad662530d80a9854e043efc88a35d7055479a498bdf",
    "original.json": "c9cdc1f51b327fcaf1e9701d8c7331e45905d9bc10a3f6d69e6ea4c2b39beb27",
    "protocols_table/compare.json": "c9b4ff008e8be6583cc38130c41af64f438e933a38562d28a598d94a723e855a",
    "protocols_table/compare.md": "a8452678a9700400971d957f2a68faad68a6e2206210dc843f7042cc10e4fff7",
    "protocols_table/protocols_table.json": "d4129d6e202cd3af563dec9acf0ccd9248064a95cc327571546c96a6d23beda2",
    "reading.json": "028f017546b532729d3a7ad523218e43400333efb93679cacf1c56496241af48",
    "repeat.json": "0fb32e12e0ec220b299def496ad3fe26a1fe2339087e2a38c5c18c618571d832",
    "speculative.json": "38f5214c012557ab3ecc83b16ef83e1ea739d82d53dc049d84c54b4731caeef2",
    "startup.json": "ae5ea684dbe38fd0124fe149da6e2bc66d01b2ce2f8b5af175ae731d592bc882",
    "stock.json": "a49bc02842874dabbcf76f645e3d41dd6e334bf566ffc83cc562f74e87a0b4a7",
}
