use v5.36;

use FindBin qw($Bin);
use Test::More;

use Perl::Critic        ();
use Perl::Critic::Utils ();

my %critic_of = (
    'a module'  => Perl::Critic->new( -profile => "$Bin/../.perlcriticrc" ),
    'a program' => Perl::Critic->new( -profile => "$Bin/../.perlcriticrc", -exclude => [qw(RequireExplicitPackage RequireEndWithOne ExcessMainComplexity)] ),
);
for my $file ( Perl::Critic::Utils::all_perl_files( grep {-e} map {"$Bin/../$_"} qw(Makefile.PL lib t xt eg conformance) ) ) {
    my @violations = $critic_of{ $file =~ /[.]pm\z/ ? 'a module' : 'a program' }->critique($file);
    is( join( q{}, @violations ), q{}, $file );
}
done_testing();
