use v5.36;

use FindBin             qw($Bin);
use Test::More;
use Test::Pod           ();
use Test::Pod::Coverage ();
use lib "$Bin/../lib";

chdir "$Bin/.." or die "there is no directory $Bin/..: $!";
for my $file ( Test::Pod::all_pod_files('lib') ) {
    Test::Pod::pod_file_ok($file);
    my $module = $file =~ s{\Alib/}{}r =~ s{/}{::}gr =~ s/[.]pm\z//r;
    Test::Pod::Coverage::pod_coverage_ok( $module, { trustme => [qr/\A[A-Z_]+\z/], also_private => [qr/\A_/] } );
}
done_testing();
