// Studio.pngWith(png, keyword, text): the PNG (a Blob) with the text in an iTXt chunk, as a promise of a Blob.
(() => {
  const Studio = (window.Studio = window.Studio || {});
  const AFTER_HEADER = 33; // 8 bytes of signature, 25 of the IHDR chunk, which must come first

  const crc = (bytes) => {
    let sum = ~0;
    for (const byte of bytes) {
      sum ^= byte;
      for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
    }
    return ~sum >>> 0;
  };

  // Length of the data, name, data, and the checksum of name and data.
  const chunk = (name, data) => {
    const bytes = new Uint8Array(data.length + 12), view = new DataView(bytes.buffer);
    view.setUint32(0, data.length);
    bytes.set(new TextEncoder().encode(name), 4);
    bytes.set(data, 8);
    view.setUint32(data.length + 8, crc(bytes.subarray(4, -4)));
    return bytes;
  };

  Studio.pngWith = async (png, keyword, text) => {
    const bytes = new Uint8Array(await png.arrayBuffer());
    // Not compressed, no language, no translated keyword.
    const data = new TextEncoder().encode(`${keyword}\0\0\0\0\0${text}`);
    return new Blob([bytes.subarray(0, AFTER_HEADER), chunk("iTXt", data), bytes.subarray(AFTER_HEADER)], { type: "image/png" });
  };
})();
