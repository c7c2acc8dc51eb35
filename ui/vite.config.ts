import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import tailwindcss from '@tailwindcss/vite';
import { defineConfig, type Plugin } from 'vite';

/** Smaller files do not get smaller by packing. */
const PACKED_BYTES_MIN = 1024;

/** Packs what is served, so that the endpoint never has to; the server embeds the results. */
function packed(): Plugin {
  let out = '';
  return {
    name: 'packed',
    apply: 'build',
    configResolved(config) {
      out = join(config.root, config.build.outDir);
    },
    closeBundle() {
      // Vite empties the folder, and the repository has this file in it.
      writeFileSync(join(out, '.gitignore'), '*\n!.gitignore\n');
      for (const file of files(out)) {
        if (!/\.(js|css|html|svg)$/.test(file)) continue;
        const bytes = readFileSync(file);
        if (bytes.length < PACKED_BYTES_MIN) continue;
        writeFileSync(`${file}.gz`, gzipSync(bytes, { level: 9 }));
        const quality = { [constants.BROTLI_PARAM_QUALITY]: 11 };
        writeFileSync(`${file}.br`, brotliCompressSync(bytes, { params: quality }));
      }
    },
  };
}

function files(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}

/** KaTeX's older font formats, which no browser with these features asks for. */
function modernFontsOnly(): Plugin {
  return {
    name: 'modern-fonts-only',
    enforce: 'pre',
    transform(code, id) {
      if (!id.includes('katex') || !id.endsWith('.css')) return null;
      return code.replace(/,\s*url\([^)]*\.(?:woff|ttf)\)\s*format\(["'](?:woff|truetype)["']\)/g, '');
    },
  };
}

const endpoint = process.env.SEXTANT ?? 'http://127.0.0.1:11460';

export default defineConfig({
  base: './',
  plugins: [tailwindcss(), svelte(), modernFontsOnly(), packed()],
  build: {
    target: 'es2022',
    // Everything that is small would become a data: address, which the policy allows for pictures alone.
    assetsInlineLimit: 0,
    // The gate of sizes reads it; it is not served.
    manifest: true,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700,
  },
  worker: { format: 'es' },
  server: {
    proxy: Object.fromEntries(
      ['/api', '/v1', '/admin', '/openapi.json', '/metrics', '/health'].map((path) => [path, endpoint]),
    ),
  },
  test: { include: ['src/**/*.test.ts'] },
} as Parameters<typeof defineConfig>[0]);
